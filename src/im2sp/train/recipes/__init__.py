"""Kinds of recipes, one module each: `Recipe` (its options), `STAGES` (in order) and `smoke` (a tiny run of all)."""
