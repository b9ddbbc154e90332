"""Methods that were tried and are no trainers of the pack, beside some that are; docs/proof.md says what came of it."""
