"""Bodies of requests and answers: `decide` with msgspec, `models` with pydantic."""
