"""The log of a bandit as evidence: its decisions with all that came of them, as rows and files."""
