"""Claims of learning, the real trainings that bear them out, and the report of what came out."""
