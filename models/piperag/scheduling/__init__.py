"""When a generator retrieves, with how much work, and what that costs."""
