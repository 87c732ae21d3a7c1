"""What the service answers, as frozen values; `decoding` reads them from JSON by their types."""
