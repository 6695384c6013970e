"""Documents in, speech for their images out: for a folder of pictures, an HTML page or an EPUB."""
