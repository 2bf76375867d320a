"""Remote-sensing applications on Shoal: a user's code, written with Shoal's public interface alone."""
