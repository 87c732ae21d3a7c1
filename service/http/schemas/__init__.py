"""Bodies of requests and answers: `decide` with msgspec, the others with pydantic."""
