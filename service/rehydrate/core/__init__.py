"""Pure: what messages mean and how they add up. No async, clock, random, environment, logging."""
