"""Train, export, convert and evaluate models. Needs `im2sp[train]`; the runtime never imports it."""
