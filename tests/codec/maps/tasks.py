from cloudtask import task

got = []


@task
def keep(row):
    got.append(row)
    if row.pk:
        row.save()
