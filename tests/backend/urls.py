"""No URLs, for a project of no apps."""

urlpatterns = []
