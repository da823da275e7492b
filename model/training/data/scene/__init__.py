"""What a scene is: descriptions, the random draws that make them, and where things are at a time."""
