"""`GET /health`: the process answers."""

from drf_spectacular.utils import extend_schema

from .hot import Answer, Exchange, HotView, json_answer


class Health(HotView):
    @extend_schema(
        operation_id="health",
        tags=["Operations"],
        summary="Is the process alive?",
        auth=[],
        responses={200: {"type": "object", "properties": {"status": {"type": "string", "enum": ["ok"]}}}},
    )
    async def get(self, exchange: Exchange) -> Answer:
        return json_answer({"status": "ok"})
