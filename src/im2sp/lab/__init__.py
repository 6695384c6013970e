"""The lab: extracts units, trains, exports, evaluates. Needs `im2sp[lab]`; the runtime never imports it."""
