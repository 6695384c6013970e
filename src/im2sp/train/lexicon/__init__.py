"""Unit pronunciation lexicon: text -> speech units of a voice, each word by the medoid of its recordings."""
