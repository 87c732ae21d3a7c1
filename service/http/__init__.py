"""HTTP: decode, validate, authorise, hand over to `serving`, encode. Nothing below knows HTTP."""
