"""Where clients run. Each engine is a Flower Grid; the application is the same everywhere."""
