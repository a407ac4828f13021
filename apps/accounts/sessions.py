"""
Sessions in the database, whose end is told to every node.

Logging out, ending a session from the list and expiry all delete the session, so this is the one place to notice.
"""

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db

from apps.accounts import services
from apps.accounts.identity import session_id_of


class SessionStore(db.SessionStore):
    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        had_user = SESSION_KEY in self._session if key == self.session_key else True
        super().delete(session_key)
        if key is not None and had_user:
            services.announce_ended(session_ids=[session_id_of(key)])
