from cloudtask import task

got = []


@task
def keep(value):
    got.append(value)
    if getattr(value, "pk", None):
        value.save()
