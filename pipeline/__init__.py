"""The stages: compose the library, write into a run."""
