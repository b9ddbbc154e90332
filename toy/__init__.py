"""The embedded demo world: pictures of coloured balls, a rule that checks them, and tiny models that draw them."""
