"""Input features: standardisation of contexts and actions."""
