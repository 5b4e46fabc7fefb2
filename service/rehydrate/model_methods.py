"""The methods of `History` that answer a prompt with a vendor's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.model_runs import RunNames
from rehydrate.providers.toolbox import TOOL_TIMEOUT_S, Toolbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehydrate.providers.model_runs import Driven, ModelRuns, Tools


class ModelMethods:
    """Answers prompts with the APIs of model vendors, one method for each API."""

    @property
    def _models(self) -> ModelRuns:
        """The model runs of the process."""
        raise NotImplementedError

    async def run_openai(
        self,
        conversation_id: str,
        client: Any,
        *,
        input: Any,  # noqa: A002 - the name that the vendor's own method has
        tools: Tools | None = None,
        prompt: str | None = None,
        prompt_id: str | None = None,
        response_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_timeout_s: float = TOOL_TIMEOUT_S,
        **request: Any,
    ) -> Driven:
        """Answer a prompt with OpenAI's Responses API, tools included.

        The prompt is published and stored, and then the response, as `respond` does it, with every
        tool call and its result, until the model is done. A ``cancel`` on the channel stops it
        (if the key may subscribe), and so does cancelling the task; the vendor is stopped, too.

        A run that fails is published as failed and returned, not raised: see ``outcome``.

        Args:
            conversation_id: the conversation.
            client: ``openai.AsyncOpenAI`` (or ``OpenAI``, whose calls then use threads).
            input: as ``client.responses.create`` takes it.
            tools: the functions that the model may call, by name.
            prompt: the text that readers see; without it, the last text of a user in *input*.
            prompt_id: the id of an existing prompt, or an id that makes a repeated call idempotent.
            response_id: the response's id; without it, a new one.
            metadata: stored with the response, in addition to the vendor's ids.
            tool_timeout_s: how long one tool call may take, in seconds.
            request: further arguments of `rehydrate.providers.responses_driver.run_responses` and
                of ``client.responses.create``. Without ``previous_response_id``, ``conversation``
                and ``store=False``, it continues from the newest completed response.

        Raises:
            BadParameter: an id is outside its syntax, or a tool cannot be described; nothing is
                published.
            Conflict: the response has ended already, or its publisher is alive.
            (and what `prompt` and `respond` raise)
        """
        return await self._models.run_responses(
            conversation_id,
            client,
            RunNames(prompt, prompt_id, response_id, metadata),
            toolbox=Toolbox(tools or {}, timeout_s=tool_timeout_s),
            input_=input,
            request=request,
        )

    async def run_openai_chat(
        self,
        conversation_id: str,
        client: Any,
        *,
        messages: Any,
        tools: Tools | None = None,
        prompt: str | None = None,
        prompt_id: str | None = None,
        response_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_timeout_s: float = TOOL_TIMEOUT_S,
        **request: Any,
    ) -> Driven:
        """Answer a prompt with the Chat Completions API of any compatible server; see `run_openai`.

        The API stores nothing, so *messages* must include the earlier messages of the conversation.

        Args:
            conversation_id: the conversation.
            client: as in `run_openai`, with the ``base_url`` of the server.
            messages: as ``client.chat.completions.create`` takes them, or a text.
            tools: as in `run_openai`.
            prompt: as in `run_openai`.
            prompt_id: as in `run_openai`.
            response_id: as in `run_openai`.
            metadata: as in `run_openai`.
            tool_timeout_s: as in `run_openai`.
            request: further arguments of `rehydrate.providers.chat_driver.run_chat` and of
                ``client.chat.completions.create``.

        Raises:
            (as `run_openai`; BadParameter also for ``n`` other than 1)
        """
        return await self._models.run_chat(
            conversation_id,
            client,
            RunNames(prompt, prompt_id, response_id, metadata),
            toolbox=Toolbox(tools or {}, timeout_s=tool_timeout_s),
            messages=messages,
            request=request,
        )

    async def run_openai_assistant(
        self,
        conversation_id: str,
        client: Any,
        *,
        assistant_id: str,
        input: Any = None,  # noqa: A002 - as in `run_openai`
        thread_id: str | None = None,
        tools: Tools | None = None,
        prompt: str | None = None,
        prompt_id: str | None = None,
        response_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_timeout_s: float = TOOL_TIMEOUT_S,
        **request: Any,
    ) -> Driven:
        """Answer a prompt with an assistant of the Assistants API; see `run_openai`.

        A thread has one run at a time, so prompts of one conversation take turns.

        Args:
            conversation_id: the conversation.
            client: as in `run_openai`.
            assistant_id: which assistant runs.
            input: a text, or content blocks of the API; None: the thread as it is.
            thread_id: the vendor's thread; without it, the conversation's own, or a new one.
            tools: as in `run_openai`.
            prompt: as in `run_openai`.
            prompt_id: as in `run_openai`.
            response_id: as in `run_openai`.
            metadata: as in `run_openai`.
            tool_timeout_s: as in `run_openai`.
            request: further arguments of `rehydrate.providers.assistants_driver.run_assistants`,
                and fields of the run.

        Raises:
            (as `run_openai`)
        """
        return await self._models.run_assistant(
            conversation_id,
            client,
            RunNames(prompt, prompt_id, response_id, metadata),
            toolbox=Toolbox(tools or {}, timeout_s=tool_timeout_s),
            input_=input,
            thread_id=thread_id,
            request={"assistant_id": assistant_id, **request},
        )
