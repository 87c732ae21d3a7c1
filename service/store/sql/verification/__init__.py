"""Checks the tables of a store against each other, for `bandexa verify`: see `audit`."""
