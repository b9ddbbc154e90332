"""From a MODEL to a policy, and from a policy to a MODEL, hooks or a LoRA file."""
