"""What a picture is drawn with: canvas, colours, backgrounds, light, shadows, the sensor."""
