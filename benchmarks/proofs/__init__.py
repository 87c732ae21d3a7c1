"""Long proofs: kills, power loss, damage, hostile requests, soak."""
