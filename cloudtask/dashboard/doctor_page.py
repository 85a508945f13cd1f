"""The page of the doctor. It looks when a person asks, since some probes take long."""

from __future__ import annotations

from django.http import HttpResponse

from cloudtask import doctor
from cloudtask.dashboard.visits import Visit, page


@page("doctor", ["run_doctor"])
def doctor_page(visit: Visit) -> HttpResponse:
    is_asked = visit.request.method == "POST"
    examined = doctor.examine() if is_asked else ()
    return visit.render(
        "doctor.html",
        "Doctor",
        is_asked=is_asked,
        examined=examined,
        is_faulty=any(f.is_fault for one in examined for f in one.findings),
        summary=doctor.summary(examined),
        probes=doctor.PROBES,
    )
