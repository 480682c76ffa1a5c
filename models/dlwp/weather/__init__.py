"""The weather experiment: channels, grids, stores of WeatherBench 1 and 2, HEALPix, and a generated atmosphere."""
