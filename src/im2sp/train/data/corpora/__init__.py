"""Public corpora in their official layouts -> one stream of captions (reference formats, section 7)."""
