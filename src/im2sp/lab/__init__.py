"""The lab: extracts units, trains, exports and evaluates. Needs `pip install im2sp[lab]`; the runtime never imports it."""
