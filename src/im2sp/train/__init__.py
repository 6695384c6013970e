"""The lab: extracts units, trains, exports, evaluates. Needs `im2sp[train]`; the runtime never imports it."""
