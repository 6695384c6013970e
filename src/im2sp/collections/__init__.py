"""Collections of photos, too many for one process: planned into shards, made by several, on record shard by shard."""
