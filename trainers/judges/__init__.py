"""Small networks on the frozen model's own features: value baseline, step reward, discriminator."""
