from django.db import models


class Message(models.Model):
    conversation = models.CharField(max_length=64, db_index=True)
    client_msg_id = models.UUIDField()
    sender = models.CharField(max_length=150)
    content = models.TextField()
    sent_at = models.DateTimeField(auto_now_add=True)
