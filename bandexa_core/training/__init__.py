"""Training of encoders: the plan of a round, and the torch trainer that executes it."""
