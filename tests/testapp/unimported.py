"""A module with a task that nothing imports but a delivery that is trusted."""

from cloudtask import task

ran: list[str] = []


@task
def reached():
    ran.append("reached")
