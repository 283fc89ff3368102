from django.contrib import admin
from django.urls import path
from pages import views

urlpatterns = [
    path("", views.index),
    path("visits/", views.visits),
    path("notes/", views.notes),
    path("upload/", views.upload),
    path("stream/", views.stream),
    path("file/", views.file),
    path("error/", views.error),
    path("seen/", views.seen),
    path("admin/", admin.site.urls),
]
