"""What several trainers share: the update, replayed steps, renoised latents, walks that gradient can pass."""
