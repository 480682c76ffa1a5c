"""The token database: what is retrieved from. Corpora, tokenizers, chunks in zarr, window encoders, and the index over them."""
