"""
Sessions in the database, whose end is told to every node.

Logging out, ending a session from the list and a changed password all delete the session, so this is the one place to
notice. One that expires is found by the nodes, which look every 30 s.
"""

from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db

from apps.accounts import services
from apps.accounts.identity import session_id_of


class SessionStore(db.SessionStore):
    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        # What is stored tells: `flush` has emptied this object by now, and logging in drops a session of nobody.
        stored = self.model.objects.filter(session_key=key).first() if key else None
        super().delete(session_key)
        if stored is not None and SESSION_KEY in stored.get_decoded():
            services.announce_ended(session_ids=[session_id_of(stored.session_key)])

    async def adelete(self, session_key: str | None = None) -> None:
        await sync_to_async(self.delete)(session_key)
