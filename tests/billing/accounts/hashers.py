"""A password hasher that counts its work."""

from django.contrib.auth.hashers import MD5PasswordHasher


class CountingHasher(MD5PasswordHasher):
    """MD5, as in all tests; `encodings` grows by one for each password hashed."""

    encodings = 0

    def encode(self, password: str, salt: str) -> str:
        CountingHasher.encodings += 1
        return super().encode(password, salt)
