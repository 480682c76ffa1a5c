"""RETRO with flexible chunked cross-attention: network, incremental decoding, counts, the public checkpoint's layout."""
