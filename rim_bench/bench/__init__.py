"""Speed, memory and overhead, measured beside plain loops."""
