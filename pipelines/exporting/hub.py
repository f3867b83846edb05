"""Exports on the Hugging Face hub: checked before anything is written, pushed as one commit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from segray.models.messages import first_line
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.uris import redacted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_LOGIN = "set HF_TOKEN, or run `hf auth login`"


@dataclass(frozen=True)
class HubRepo:
    """A repository of the hub, which need not exist yet.

    Attributes:
        name: USER/NAME.
        kind: what it holds.
        private: whether only its owners may see it.
    """

    name: str
    kind: Literal["model", "dataset"]
    private: bool

    def check(self) -> None:
        """Refuse what could not be pushed; nothing is written, here or there.

        Raises:
            UserError: offline, no token or one that is refused, a name of somebody else, or a public
                repository where a private one is wanted.
        """
        from huggingface_hub import constants, get_token

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        if constants.HF_HUB_OFFLINE:
            raise UserError("push_to_hub: HF_HUB_OFFLINE is set; nothing was written")
        if get_token() is None:
            raise UserError(f"push_to_hub: no token of the Hugging Face hub; {_LOGIN}; nothing was written")
        api = _api()
        who: dict[str, Any] = _asked(api.whoami, "asking who you are")
        owners = [str(who.get("name")), *(str(org.get("name")) for org in who.get("orgs") or ())]
        if self.name.partition("/")[0] not in owners:
            raise UserError(f"push_to_hub: {self.name} is not yours (allowed: {', '.join(owners)}/NAME)")
        if self.private and _is_public(api, self):
            raise UserError(f"push_to_hub: {self.name} is public; private=false pushes to it all the same")

    def push_folder(self, folder: Path) -> str:
        """Make the repository hold what a folder holds, without hidden files.

        Returns:
            Its address.

        Raises:
            UserError: it could not be pushed (1).
        """
        api, address = self._created()
        push = partial(
            api.upload_folder,
            repo_id=self.name,
            repo_type=self.kind,
            folder_path=folder,
            ignore_patterns=[".*", "**/.*"],
            # Parts of an export that was there before would be read as well.
            delete_patterns=["data/*.parquet"],
            commit_message="segray export",
        )
        _asked(push, "pushing", code=1)
        return address

    def push_files(self, files: Mapping[str, bytes]) -> str:
        """Add files, by their names; see `push_folder`."""
        from huggingface_hub import CommitOperationAdd

        api, address = self._created()
        adds = [CommitOperationAdd(name, data) for name, data in files.items()]
        push = partial(
            api.create_commit, self.name, adds, commit_message="segray export", repo_type=self.kind
        )
        _asked(push, "pushing", code=1)
        return address

    def _created(self) -> tuple[HfApi, str]:
        api = _api()
        create = partial(api.create_repo, self.name, repo_type=self.kind, private=self.private, exist_ok=True)
        _asked(create, "creating the repository", code=1)
        place = "datasets/" if self.kind == "dataset" else ""
        return api, f"{api.endpoint}/{place}{self.name}"


def hub_repo(config: ExportConfig) -> HubRepo | None:
    """The repository of `push_to_hub`, checked; None without that key.

    Raises:
        UserError: as `HubRepo.check`.
    """
    if config.push_to_hub is None:
        return None
    kind: Literal["model", "dataset"] = "dataset" if config.checkpoint is None else "model"
    repo = HubRepo(config.push_to_hub, kind, config.private)
    repo.check()
    return repo


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="segray")


def _is_public(api: HfApi, repo: HubRepo) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    def visible() -> bool:
        try:
            return not api.repo_info(repo.name, repo_type=repo.kind).private
        except RepositoryNotFoundError:
            return False

    return _asked(visible, "looking for the repository")


def _asked(call: Callable[[], T], doing: str, code: int = 2) -> T:
    """`call()`, with one line of what is wrong."""
    from huggingface_hub import constants, get_token

    try:
        return call()
    except Exception as error:  # noqa: BLE001  whatever the client and its HTTP library raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        where = storage.display(constants.ENDPOINT)
        if status == 401:
            raise UserError(f"push_to_hub: {where} refuses the token; {_LOGIN}", exit_code=code) from None
        reason = redacted(first_line(error)[:200])
        reason = reason.replace(get_token() or "\0", "***")
        raise UserError(f"push_to_hub: {doing} at {where} failed: {reason}", exit_code=code) from None
