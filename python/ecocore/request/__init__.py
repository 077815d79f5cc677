"""What a caller may ask for: the one request model, for HTTP bodies and for embedded use alike.

Takes plain values, gives checked ones; every error names the field. Knows no HTTP and no model.
"""

from ecocore.request.chat import MAX_CHOICES, ChatParams, ChatRequest, StreamOptions
from ecocore.request.messages import ImagePart, Message, TextPart, ToolCall
from ecocore.request.response_format import JsonSchema, ResponseFormat
from ecocore.request.sampling import SamplingParams
from ecocore.request.tools import Tool, ToolChoice

__all__ = [
    "MAX_CHOICES",
    "ChatParams",
    "ChatRequest",
    "ImagePart",
    "JsonSchema",
    "Message",
    "ResponseFormat",
    "SamplingParams",
    "StreamOptions",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolChoice",
]
