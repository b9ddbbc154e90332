"""What the page sees and says: live events, run folders, questions to a person."""
