from typing import Any

from django.db import models
from django.utils.functional import cached_property

from cloudtask import task

noted: list[Any] = []


class Author(models.Model):
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Book(models.Model):
    title = models.CharField(max_length=100)
    author = models.ForeignKey(Author, models.CASCADE, null=True, related_name="books")
    pages = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    published = models.DateTimeField(null=True)
    data = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.title


class Genre(models.TextChoices):
    FICTION = "fiction", "Fiction"
    SCIENCE = "science", "Science"


class NovelQuerySet(models.QuerySet):
    def long(self) -> "NovelQuerySet":
        return self.filter(pages__gt=500)


class Novel(Book):
    """A table of its own beside its parent's."""

    genre = models.CharField(max_length=20, choices=Genre, default=Genre.FICTION)

    objects = NovelQuerySet.as_manager()


class Thriller(Novel):
    class Meta:
        proxy = True


class Spot:
    """A value that no codec knows: only its field can write and read it."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spot) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))


class SpotField(models.CharField):
    def from_db_value(self, value, expression, connection):
        return self.to_python(value)

    def to_python(self, value):
        return Spot(*map(int, value.split(","))) if isinstance(value, str) else value

    def get_prep_value(self, value):
        return f"{value.x},{value.y}" if isinstance(value, Spot) else value


class Cover(models.Model):
    book = models.OneToOneField(Book, models.CASCADE, related_name="cover")
    image = models.FileField(upload_to="covers")
    thumbnail = models.BinaryField(default=b"")
    focus = SpotField(max_length=20, default="0,0")

    def __str__(self) -> str:
        return str(self.image.name)


class Label(models.Model):
    name = models.CharField(max_length=50)
    books = models.ManyToManyField(Book, related_name="labels")

    def __str__(self) -> str:
        return self.name


class Titled(models.Model):
    """An abstract base with tasks; they note what they were called with."""

    title = models.CharField(max_length=100)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.title

    @task
    def shout(self, mark: str = "!") -> str:
        """Return the title, loudly."""
        noted.append((type(self), self.pk, self.title, mark))
        return self.title.upper() + mark

    @task
    @classmethod
    def count(cls, factor: int) -> int:
        noted.append((cls, factor))
        return factor

    @task
    async def ashout(self) -> None:
        noted.append((type(self), self.title, "async"))


class Magazine(Titled):
    owner = models.ForeignKey(Author, models.CASCADE, null=True)


class LoudMagazine(Magazine):
    class Meta:
        proxy = True


class SpecialMagazine(Magazine):
    """A table of its own, joined to that of the base."""

    issue = models.IntegerField(default=1)


class TrackedAuthor(Author):
    """Remembers its first name, as models with change tracking do."""

    extra: Any = ()

    class Meta:
        proxy = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._was = self.name
        self._seen: list[str] = []

    @property
    def has_changed(self) -> bool:
        return self._was != self.name

    @cached_property
    def initial(self) -> str:
        return self.name[0]


class ReadAuthor(Author):
    """Notes, when it is read, which database it came from."""

    class Meta:
        proxy = True

    @classmethod
    def from_db(cls, db: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        found = super().from_db(db, *args, **options)
        found._read_from = db  # type: ignore[attr-defined]
        return found
