"""The means of drawing: canvas, colours, textures, light, shadows and the camera's sensor."""
