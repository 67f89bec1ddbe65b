"""Files: atomic writing, digests, guarded reading; and the source files that a module depends on."""
