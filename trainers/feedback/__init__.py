"""What a train step learns from: advantages, pairs, thumbs, pairs inside the steps; made of scores."""
