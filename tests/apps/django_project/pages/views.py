"""What the tests ask of a Django project."""

import hashlib

from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import redirect

from .models import Note


def index(request):
    return HttpResponse("<h1>Hello from Django</h1>")


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


def notes(request):
    """GET: a form with its CSRF token and all notes. POST: one more note."""
    if request.method == "POST":
        Note.objects.create(text=request.POST["text"])
        return redirect("/notes/")
    return JsonResponse({"csrf": get_token(request), "notes": list(Note.objects.values_list("text", flat=True))})


def upload(request):
    if request.method == "GET":
        return JsonResponse({"csrf": get_token(request)})
    digest = hashlib.sha256()
    size = 0
    for chunk in request.FILES["file"].chunks():
        digest.update(chunk)
        size += len(chunk)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def stream(request):
    return StreamingHttpResponse((f"{number}\n" for number in range(1000)), content_type="text/plain")


def file(request):
    """Django hands a file over by wsgi.file_wrapper."""
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


def error(request):
    raise ValueError("an error of the project")


def seen(request):
    return JsonResponse({"host": request.get_host(), "secure": request.is_secure(),
                         "remote": request.META["REMOTE_ADDR"], "path": request.get_full_path()})
