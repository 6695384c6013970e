"""The HTTP service, `im2sp serve`: photos in, speech out, and a page to do it from (docs/service.md).

Needs the extra `serve`; imported by the command line only.
"""
